"""The plain calls: start a run, track its steps, end it.

agentscope serve                  # in another terminal
python examples/basic_usage.py
"""

import ast
import operator
import time

from agentscope import create_tracker

# Address and key come from AGENTSCOPE_BASE_URL and AGENTSCOPE_API_KEY.
# The default is a receiver at http://localhost:8000, which needs no key.
tracker = create_tracker()

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(node: ast.expr) -> float:
    """A tool: arithmetic, without eval."""
    if isinstance(node, ast.BinOp):
        return OPERATIONS[type(node.op)](calculate(node.left), calculate(node.right))
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, (int, float))
    return node.value


question = "What is 12 * 7 + 5?"
tracker.start_run("calculator", input_data={"question": question})

expression = question.removeprefix("What is ").removesuffix("?")
tracker.track_step(
    "find_expression",
    step_type="reasoning",
    input_data={"question": question},
    output_data={"expression": expression},
)

begin = time.perf_counter()
result = calculate(ast.parse(expression, mode="eval").body)
tracker.track_step(
    "calculate",
    step_type="tool_call",
    input_data={"expression": expression},
    output_data={"result": result},
    latency_ms=int((time.perf_counter() - begin) * 1000),
)

tracker.end_run(status="completed", output={"answer": f"{expression} = {result}"})
print(f"{expression} = {result}")
# Nothing waited for the network so far. What is still in memory is sent when the program ends.
