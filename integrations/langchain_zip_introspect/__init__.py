"""zip-introspect for LangChain: a local model that says how sure it is, as chat model, text model and runnable."""

from langchain_zip_introspect.chat import ChatIntrospective
from langchain_zip_introspect.escalating import EscalatingChat
from langchain_zip_introspect.messages import Introspection
from langchain_zip_introspect.runnable import IntrospectiveRunnable
from langchain_zip_introspect.text import TextIntrospective

__all__ = ["ChatIntrospective", "EscalatingChat", "Introspection", "IntrospectiveRunnable", "TextIntrospective"]
