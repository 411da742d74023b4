"""zip-introspect for LangChain: a local model that says how sure it is, as chat model, text model and runnable."""

from langchain_zip_introspect.chat import ChatIntrospective
from langchain_zip_introspect.escalating import EscalatingChat
from langchain_zip_introspect.llm import TextIntrospective
from langchain_zip_introspect.messages import Introspection
from langchain_zip_introspect.runnable import IntrospectiveRunnable

__all__ = ["ChatIntrospective", "EscalatingChat", "Introspection", "IntrospectiveRunnable", "TextIntrospective"]
