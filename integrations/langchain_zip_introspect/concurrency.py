"""Batches: every input is a run of LangChain's own, and all of them ask the model at once.

Their searches share its forward passes, as those of any callers do; nothing here brings them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list

from langchain_zip_introspect.settings import IntrospectiveSettings
from zip_introspect.shared_budget import SharedBudget
from zip_introspect.threads import in_loop


class ConcurrentBatch(IntrospectiveSettings):
    """`batch` and `abatch` that ask about all inputs at once."""

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer many inputs together; `abatch` tells how."""
        return in_loop(lambda: self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer many inputs together, at most the config's `max_concurrency` at once if it gives one.

        Args:
            config: for all inputs, or one for each.
            return_exceptions: put the error of an input in its place; without it the first one is raised, once the
                others are done.
            kwargs: settings, for all inputs. `budget` holds for each of them, `total_budget` for all together.

        Raises:
            ConfigError, BudgetError: bad settings, before anything runs.
            ZipIntrospectError: as `IntrospectiveLLM.generate`.
        """
        if inputs and not isinstance(kwargs.get("total_budget"), SharedBudget | None):
            kwargs = {**kwargs, "total_budget": SharedBudget(kwargs["total_budget"], calls=len(inputs))}
        await self.acall(None, kwargs)
        ask = cast(Runnable[Any, Any], self).ainvoke
        return await at_once(lambda *item: ask(*item, **kwargs), inputs, config, return_exceptions)


Ask = Callable[[Any, RunnableConfig], Coroutine[Any, Any, Any]]


async def at_once(
    ask: Ask, inputs: list[Any], config: RunnableConfig | list[RunnableConfig] | None, return_exceptions: bool
) -> list[Any]:
    """What is answered to each input, in order, by tasks beside each other; or the first error, once all are done."""
    if not inputs:
        return []
    configs = get_config_list(config, len(inputs))

    room = asyncio.Semaphore(configs[0].get("max_concurrency") or len(inputs))

    async def one(given: Any, own: RunnableConfig) -> Any:
        async with room:
            try:
                return await ask(given, own)
            except Exception as error:  # noqa: BLE001 - the others go on
                return error

    async with asyncio.TaskGroup() as group:  # unlike gather, it waits for all that are cancelled to close their runs
        tasks = [group.create_task(one(*item)) for item in zip(inputs, configs, strict=True)]
    outputs = [task.result() for task in tasks]
    error = next((output for output in outputs if isinstance(output, Exception)), None)
    if error is not None and not return_exceptions:
        raise error
    return outputs


@asynccontextmanager
async def run_closed(run: AsyncCallbackManagerForLLMRun | None) -> AsyncIterator[None]:
    """Tell a run's handlers that it was cancelled, within: LangChain itself leaves it open then."""
    try:
        yield
    except asyncio.CancelledError as error:
        if run is not None:
            await run.on_llm_error(error, response=LLMResult(generations=[]))
        raise
