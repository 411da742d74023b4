"""Retrieval, then one batch: eight questions, each answered from a note that is looked up, sharing forward passes.

Answers below a threshold of confidence are flagged for a human, with what the model would have said.
"""

from __future__ import annotations

import re

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_zip_introspect import ChatIntrospective

FLAG_BELOW = 0.9
NOTES = (
    "Bakery: flour comes in sacks. For x sacks this week the bill says 7*x+12=96.",
    "Harbour: cranes unload x containers an hour, and the log of the night shift reads 8*x-13=283.",
    "Library: x shelves were moved upstairs; the count of books is 9*(x+5)+19=127.",
    "Orchard: x apple trees in a row, planted in a square with a border, where x*x+7*x+45=189.",
    "School: x buses, seated as 9*x+25=3*x+97 by two drivers who counted differently.",
    "Theatre: x rows of chairs, which satisfy x*x+8*x+16=223 if the plan is right.",
    "Garage: x tyres in stock, by the invoice 6*x+21=75.",
    "Museum: x guides on duty; tickets sold give 4*(x+4)=52.",
)
QUESTIONS = (
    "How many sacks of flour did the bakery buy?",
    "How many containers do the cranes unload at the harbour?",
    "How many shelves were moved in the library?",
    "How many apple trees are in a row of the orchard?",
    "How many buses does the school have?",
    "How many rows of chairs are in the theatre?",
    "How many tyres has the garage in stock?",
    "How many guides are on duty at the museum?",
)


def words(text: str) -> set[str]:
    """The words that matter for looking up."""
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}


class WordOverlap(BaseRetriever):
    """The note that shares most words with the question. A vector store's `as_retriever()` would stand here."""

    notes: tuple[str, ...]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        best = max(self.notes, key=lambda note: len(words(note) & words(query)))
        return [Document(best)]


def equation(found: list[Document]) -> str:
    """The part of the note that the model works on."""
    match = re.search(r"\S*=[\dx+*()-]+", found[0].page_content)
    if match is None:
        raise ValueError(f"no equation in the note {found[0].page_content!r}")
    return match[0]


def main() -> None:
    """Ask everything in one batch."""
    lookup: Runnable[str, str] = WordOverlap(notes=NOTES) | RunnableLambda(equation)
    prompt = ChatPromptTemplate.from_messages([("human", "Solve {equation}")])
    # Step by step, so that the model sees all questions at once: within RunnablePassthrough.assign, or a function, it
    # would be asked about each of them alone.
    chain = {"equation": lookup} | prompt | ChatIntrospective(model="demo", max_samples=2, seed=0)
    messages = chain.batch(list(QUESTIONS))
    flagged = []
    print("question                                                  note            answer  confidence")
    for question, note, message in zip(QUESTIONS, lookup.batch(list(QUESTIONS)), messages, strict=True):
        known = message.response_metadata["introspection"]
        print(f"{question:<56}  {note:<14}  {known['answer']!s:<6}  {known['confidence']:.2f}")
        if known["confidence"] < FLAG_BELOW:
            flagged.append(question)
    print(f"\nFor a human, below {FLAG_BELOW}: {len(flagged)} of {len(QUESTIONS)}")
    for question in flagged:
        print(f"  {question}")


if __name__ == "__main__":
    main()
