"""LangChain by hand: the steps of a chain, recorded with three calls, without an integration.

    pip install langchain-core
    python examples/langchain_example.py

The model is LangChain's own fake, so no key is needed; put `ChatOpenAI(...)` or any other chat model in its place.
"""

import sys
import time

from agentscope import create_tracker

try:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.prompts import ChatPromptTemplate
except ImportError:
    sys.exit("This example needs LangChain: pip install langchain-core")

tracker = create_tracker()

answer = AIMessage("Paris.", usage_metadata={"input_tokens": 14, "output_tokens": 2, "total_tokens": 16})
llm = GenericFakeChatModel(messages=iter([answer]))
prompt = ChatPromptTemplate.from_messages([("system", "Answer in one word."), ("human", "{query}")])


def run_langchain_agent(query: str) -> str:
    with tracker.track_run("langchain_agent", input_data={"query": query}) as run:
        with tracker.track_step_context("prompt", step_type="reasoning", input_data={"query": query}) as step:
            messages = prompt.invoke({"query": query}).to_messages()
            step.output = {"messages": [{"role": message.type, "content": message.content} for message in messages]}

        start = time.perf_counter()
        response = llm.invoke(messages)
        tracker.track_step(
            name="llm_call",
            step_type="llm_call",
            input_data={"query": query},
            output_data={"response": response.content},
            latency_ms=int((time.perf_counter() - start) * 1000),
            tokens_used=response.usage_metadata["total_tokens"] if response.usage_metadata else None,
        )
        run.output = {"answer": response.content}
        return str(response.content)


print(run_langchain_agent("What is the capital of France?"))
