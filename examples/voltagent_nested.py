"""The VoltAgent face without asyncio: sub-agents, and steps of the AgentScope face in the same trace.

python examples/voltagent_nested.py
"""

import os

from agentscope.voltagent import AgentOptions, TokenUsage, VoltAgentSDK

sdk = VoltAgentSDK(
    base_url=os.environ.get("VOLTAGENT_BASE_URL", "http://localhost:8000"),
)

# The other face over the same pipeline: what it tracks hangs below the handle whose block is current.
tracker = sdk.tracker

RATES = {"EUR": 1.0, "USD": 1.1, "JPY": 160.0}


@tracker.observe(step_type="tool_call")
def rate(currency: str) -> float:
    return RATES[currency]


def convert(above, amount: float, currency: str) -> float:
    # Typed options are checked, plain dicts are not.
    with above.add_agent(AgentOptions(name="converter", input={"amount": amount, "currency": currency})) as agent:
        result = round(amount * rate(currency), 2)
        agent.success(
            output={"result": result}, usage=TokenUsage(prompt_tokens=7, completion_tokens=3, total_tokens=10)
        )
        return result


with sdk.trace(agentId="money_changer", input={"amount": 20}, metadata={"priority": "low"}) as trace:
    with trace.add_agent({"name": "planner", "instructions": "You ask a converter for each currency."}) as planner:
        results = {}
        for currency in ("USD", "XXX", "JPY"):
            try:
                results[currency] = convert(planner, 20, currency)
            except KeyError:
                # The exception left the converter's block, and so did it as an error; here it is handled.
                planner.add_event(
                    {"name": "skipped", "type": "note", "status": "completed", "input": {"currency": currency}}
                )
        planner.success(output=results)
    trace.update(metadata={"currencies_asked": 3})
    trace.end(output=results)

print(", ".join(f"{amount} {currency}" for currency, amount in results.items()))
