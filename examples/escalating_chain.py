"""A small model that answers what it is sure of, and an exact solver for the rest.

Twice: with a threshold on confidence, which decides once the small model is done; and by expected utility, which weighs
the solver's price against what another token is worth, and may hand a question on half way.
"""

from __future__ import annotations

from exact_solver import solver
from langchain_core.prompts import ChatPromptTemplate

from langchain_zip_introspect import ChatIntrospective, EscalatingChat
from zip_introspect import Rung

PROMPT = ChatPromptTemplate.from_messages([("human", "Solve {equation}")])
EQUATIONS = ("3*x+16=31", "4(x+4)=52", "x*x+8*x+16=223", "7*x-20=3*x+8", "x*x+4*x+29=250")


def show(title: str, chat: EscalatingChat) -> None:
    """Ask everything in one batch; say who answered, and what the small model spent."""
    messages = (PROMPT | chat).batch([{"equation": equation} for equation in EQUATIONS])
    print(f"{title}\n  equation        answer  confidence  by     tokens  saved")
    spent = 0
    for equation, message in zip(EQUATIONS, messages, strict=True):
        known, used = message.response_metadata["introspection"], message.usage_metadata
        way = known["escalation"]  # None where the small model was asked alone
        by, saved = (way["target"], way["tokens_saved"] or 0.0) if way else ("small", 0.0)
        tokens = used["output_tokens"] if used else 0
        spent += tokens
        row = (
            f"{equation:<14}  {known['answer']!s:<6}  {known['confidence']:<10.2f}  {by:<5}  {tokens:>6}  {saved:>5.0f}"
        )
        print(f"  {row}")
    print(f"  {spent} tokens in all\n")


def main() -> None:
    """Ask under both policies."""
    chat = ChatIntrospective(model="demo", max_samples=2, seed=0)
    show("Below a confidence of 0.7", chat.with_escalation(solver, min_confidence=0.7))
    # In units of a right answer: a call of the solver costs 0.3, and one usual sample of the small model 0.15.
    priced, chat = (
        Rung(solver, expected_reward=1.0, cost=0.3),
        ChatIntrospective(model="demo", max_samples=2, beta=0.15, seed=0),
    )
    show("By expected utility", chat.with_escalation(priced, expected_utility=True))


if __name__ == "__main__":
    main()
