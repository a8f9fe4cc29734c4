"""An agent class: a loop that plans, calls tools, tries again, remembers, and asks sub-agents.

python examples/custom_agent.py
"""

from collections.abc import Callable

from agentscope import Tracker, create_tracker

FLIGHTS = {"Lisbon": 120, "Oslo": 180, "Athens": 150}
HOTELS = {"Lisbon": 80, "Oslo": 140, "Athens": 70}


class Tools:
    """Two price services; the one for hotels is busy at the first call."""

    def __init__(self) -> None:
        self.calls = 0

    def flight(self, city: str) -> int:
        return FLIGHTS[city]

    def hotel(self, city: str) -> int:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("the hotel service is busy")
        return HOTELS[city]


class TravelAgent:
    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.tools = Tools()
        self.memory: dict[str, int] = {}

    def run(self, budget: int) -> str:
        with self.tracker.track_run("travel_agent", input_data={"budget": budget}, meta_data={"nights": 2}) as run:
            self.tracker.track_step("plan", step_type="reasoning", output_data={"cities": sorted(FLIGHTS)})
            for city in sorted(FLIGHTS):
                self.price(city)
            choice = self.decide(budget)
            run.output = {"choice": choice, "prices": self.memory}
            return choice

    def price(self, city: str) -> None:
        """A sub-agent: two tools and a note."""
        with self.tracker.track_step_context("price_agent", step_type="agent", input_data={"city": city}) as step:
            total = self.call(self.tools.flight, city) + 2 * self.call(self.tools.hotel, city)
            with self.tracker.track_step_context("remember", step_type="memory", input_data={city: total}):
                self.memory[city] = total
            step.output = {"total": total}

    def call(self, tool: Callable[[str], int], city: str, attempts: int = 3) -> int:
        """Call a tool; each attempt is a step, so that the failed ones can be seen too."""
        for attempt in range(1, attempts + 1):
            try:
                with self.tracker.track_step_context(
                    tool.__name__, step_type="tool_call", input_data={"city": city}, meta_data={"attempt": attempt}
                ) as step:
                    price = tool(city)
                    step.output = {"price": price}
                    return price
            except ConnectionError:
                if attempt == attempts:
                    raise
        raise AssertionError("not reached")

    def decide(self, budget: int) -> str:
        with self.tracker.track_step_context("decide", step_type="llm_call", input_data=self.memory) as step:
            affordable = {city: total for city, total in self.memory.items() if total <= budget}
            choice = max(affordable, key=lambda city: affordable[city], default="stay at home")
            # What a language model reports goes here.
            step.output, step.tokens_used, step.usage = (
                {"choice": choice},
                42,
                {"input_tokens": 30, "output_tokens": 12},
            )
            return choice


if __name__ == "__main__":
    tracker = create_tracker()
    print(TravelAgent(tracker).run(budget=300))
