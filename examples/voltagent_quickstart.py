"""The VoltAgent face in asyncio: a trace, an agent in it, and the tools, memory and retriever of the agent.

agentscope serve                  # in another terminal
python examples/voltagent_quickstart.py
"""

import asyncio
import os
from pathlib import Path

from agentscope.voltagent import VoltAgentSDK

# A local receiver needs no keys. For VoltAgent itself set VOLTAGENT_BASE_URL, VOLTAGENT_PUBLIC_KEY and VOLTAGENT_SECRET_KEY.
sdk = VoltAgentSDK(
    base_url=os.environ.get("VOLTAGENT_BASE_URL", "http://localhost:8000"),
)

FOLDER = Path(__file__).parent
KNOWN: dict[str, list[str]] = {}


def search(word: str) -> list[str]:
    """Names of the examples that have this word in them."""
    return sorted(path.name for path in FOLDER.glob("*.py") if word in path.read_text(encoding="utf-8"))


async def answer(question: str, word: str) -> str:
    async with sdk.trace(
        agentId="librarian", input={"question": question}, userId="user-1", tags=["examples"]
    ) as trace:
        async with trace.add_agent(
            {
                "name": "Librarian",
                "instructions": "You find examples.",
                "metadata": {"model_parameters": {"model": "none"}},
            }
        ) as agent:
            retriever = await agent.add_retriever({"name": "examples", "input": {"query": word}})
            found = await asyncio.to_thread(search, word)
            await retriever.success(output={"documents": found})

            memory = await agent.add_memory({"name": "remember", "input": {"key": word, "value": found}})
            KNOWN[word] = found
            await memory.success(output={"stored": True}, metadata={"cache_hit": False})

            tool = await agent.add_tool({"name": "read", "input": {"file": "no such example.py"}})
            try:
                (FOLDER / "no such example.py").read_text(encoding="utf-8")
            except FileNotFoundError as error:
                await tool.error(status_message=error, metadata={"retry_attempts": 0})

            text = f"{len(found)} examples have it"
            usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
            await agent.success(output={"answer": text}, usage=usage)
        await trace.end(output={"answer": text})  # else its end has no output
    return text


async def main() -> None:
    print(await answer("Which examples use asyncio?", "import asyncio"))
    delivered = await sdk.shutdown()  # at exit it would happen by itself
    print(f"delivered: {bool(delivered)}")


asyncio.run(main())
