"""A LangGraph agent that routes on confidence.

answer -> check -> accept | ask again with a larger budget | hand to the solver, a tool | decline
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

from exact_solver import solve
from langgraph.graph import END, START, StateGraph

from langchain_zip_introspect import ChatIntrospective
from zip_introspect import Budget

SURE = 0.9
FIRST, AGAIN = Budget(max_samples=1, max_tokens=150), Budget(max_samples=2, max_tokens=600)
QUESTIONS = (
    "Solve 3*x+16=31",
    "Find x: 9(x+5)+19=127",
    "Solve x*x+8*x+16=223",
    "Solve x*x*x=512",
    "How high is Mont Blanc?",
)

Route = Literal["accept", "ask_again", "solver", "decline"]


class State(TypedDict, total=False):
    """One question on its way. `route` grows: each node adds its name."""

    question: str
    answer: str | None
    confidence: float
    finished: bool
    tokens: Annotated[int, operator.add]
    route: Annotated[list[str], operator.add]


def build(chat: ChatIntrospective) -> Any:
    """The graph, compiled."""

    def ask(name: str, question: str, budget: Budget) -> State:
        message = chat.invoke(question, budget=budget)
        known, used = message.response_metadata["introspection"], message.usage_metadata
        return State(
            answer=known["answer"],
            confidence=known["confidence"],
            finished=known["finish_reason"] == "stop",
            tokens=used["output_tokens"] if used else 0,
            route=[name],
        )

    def answer(state: State) -> State:
        return ask("answer", state["question"], FIRST)

    def ask_again(state: State) -> State:
        return ask("ask again", state["question"], AGAIN)

    def solver(state: State) -> State:
        try:
            return State(answer=solve(state["question"]).removeprefix("ans "), confidence=1.0, route=["solver"])
        except ValueError:
            return State(answer=None, confidence=0.0, route=["solver"])

    def decline(state: State) -> State:
        return State(answer=None, confidence=0.0, route=["decline"])

    def accept(state: State) -> State:
        return State(route=["accept"])

    def check(state: State) -> Route:
        if state["finished"] and state["answer"] is None:  # the model itself says that this is not for it
            return "decline"
        if state["answer"] is not None and state["confidence"] >= SURE:
            return "accept"
        return "solver" if "ask again" in state["route"] else "ask_again"

    def check_solver(state: State) -> Route:
        return "decline" if state["answer"] is None else "accept"

    graph = StateGraph(State)
    for node in (answer, ask_again, solver, decline, accept):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", check)
    graph.add_conditional_edges("ask_again", check)
    graph.add_conditional_edges("solver", check_solver)
    graph.add_edge("accept", END)
    graph.add_edge("decline", END)
    return graph.compile()


def main() -> None:
    """Ask the agent everything, and show its routes."""
    agent = build(ChatIntrospective(model="demo", seed=0))
    print("question                  answer    confidence  tokens  route")
    for question in QUESTIONS:
        end = agent.invoke({"question": question, "route": [], "tokens": 0})
        answer = "declined" if end["answer"] is None else end["answer"]
        route = " > ".join(end["route"])
        print(f"{question:<24}  {answer:<8}  {end['confidence']:<10.2f}  {end['tokens']:<6}  {route}")


if __name__ == "__main__":
    main()
