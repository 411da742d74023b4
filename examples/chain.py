"""prompt | model | parser, with a model that knows how sure it is; then one answer as it is being written.

The model is the embedded one, which solves equations: `ChatIntrospective(model="path/to/yours")` opens any other. With
a seed it says the same each time; without one, every answer is drawn afresh.
"""

from __future__ import annotations

from typing import NamedTuple

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_zip_introspect import ChatIntrospective

PROMPT = ChatPromptTemplate.from_messages([("human", "Solve {equation}")])
EQUATIONS = ("3*x+16=31", "8*x-13=283", "x*x+8*x+16=223")
STREAMED = "8*x-13=283"


class Answer(NamedTuple):
    """What the chain returns."""

    value: str | None
    confidence: float
    tokens: int


def read(message: AIMessage) -> Answer:
    """The parser. It gets the whole message: what the model knows of its answer is in the metadata."""
    known = message.response_metadata["introspection"]
    used = message.usage_metadata
    return Answer(known["answer"], known["confidence"], used["output_tokens"] if used else 0)


def main() -> None:
    """Ask for three answers, and watch one."""
    chain = PROMPT | ChatIntrospective(model="demo", max_samples=2, seed=0) | read
    print("equation          answer  confidence  tokens")
    for equation in EQUATIONS:
        value, confidence, tokens = chain.invoke({"equation": equation})
        print(f"{equation:<16}  {value!s:<6}  {confidence:<10.2f}  {tokens}")

    print(f"\n{STREAMED} again, one sample, as it is being written")
    one_sample = PROMPT | ChatIntrospective(model="demo", max_samples=1, seed=0, stream_interval=24)
    for chunk in one_sample.stream({"equation": STREAMED}):
        known = chunk.response_metadata["introspection"]
        confidence = known["running"][-1]["confidence"] if "running" in known else known["confidence"]
        print(f"  {confidence:.2f}  {chunk.text.replace(chr(10), ' / ')}")


if __name__ == "__main__":
    main()
