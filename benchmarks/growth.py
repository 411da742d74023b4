"""What growth costs: `python benchmarks/growth.py [MODEL] [--device cuda] [--out growth.json]`.

Tokens a second, all samples together, and memory against prompts in a batch, samples of one prompt, and length:

- prompts and samples: `IntrospectiveLLM.batch` with best-of-N on the embedded model, `--tokens` of a sample at most, on
  problems of the hardest tier, few of which end before;
- length: the backend alone, 8 samples of a prompt of that many tokens, on a model of random weights whose context is
  long enough; its rate is that of the samples, and that of the prompt stands beside it.

Every backend and every kind of growth has a process of its own. Its first round goes from the smallest row to the
largest and measures memory: the peak of the process (on CUDA of PyTorch's allocations) over what it held once the model
was open. Further rounds measure time; rates are medians, and stand beside that of the first row of the same run.
What the keys and values alone need is 2 x layers x heads of keys x their size x bytes of a number for each token, a
prompt's counted once for all its samples. llama.cpp takes its cells when it opens, so they are no growth: what the
samples hold of them at most is told instead.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import device_name, table, write
from zip_introspect import IntrospectiveLLM, SamplingParams
from zip_introspect.backend.contract import Backend
from zip_introspect.backend.exporting import exporter
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.demo.problems import held_out
from zip_introspect.introspection.grid import JointGrid

SAMPLES_OF_LENGTH = 8
INTERVAL = 16
VOCABULARY, CONTEXT = 8192, 8192
MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What one process measures."""

    model: str
    backend: str
    growth: str
    """prompts, samples or length."""
    sizes: tuple[int, ...]
    tokens: int
    rounds: int
    device: str
    dtype: str
    threads: int | None


@dataclass(frozen=True)
class Spent:
    """What one row did once."""

    generated: int
    seconds: float
    held: int
    """Tokens whose keys and values are held at the end, those of a shared prompt counted once."""
    prompt_rate: float | None = None


class Memory:
    """How far a process, or PyTorch on a GPU, goes beyond what it holds now."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._base = self._allocated() if device else _status("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far."""
        if self._device:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):  # elsewhere the peak of all rows so far stands, which the largest sets
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins again

    def grown(self) -> int:
        """Bytes of the peak since `reset` beyond what was held at first."""
        if self._device:
            import torch

            return int(torch.cuda.max_memory_allocated(self._device)) - self._base
        return max(0, _status("VmHWM") - self._base)

    def _allocated(self) -> int:
        import torch

        return int(torch.cuda.memory_allocated(self._device))


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status; the peak of the process where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class Cells:
    """The most cells that a llama.cpp backend held after any call of `advance`."""

    def __init__(self, backend: Any) -> None:
        self.most, self._backend, self._advance = 0, backend, backend.advance
        if hasattr(backend, "used_cells"):
            backend.advance = self._watched

    def _watched(self, *arguments: Any) -> Any:
        results = self._advance(*arguments)
        self.most = max(self.most, self._backend.used_cells)
        return results


def measure(plan: Plan) -> dict[str, Any]:
    """The rows of one backend and one kind of growth."""
    options: dict[str, Any] = {"threads": plan.threads} if plan.threads else {}
    if plan.backend == "transformers":
        options |= {"device": plan.device, "dtype": plan.dtype}
    elif plan.growth == "length":
        options["cells"] = max(plan.sizes) + SAMPLES_OF_LENGTH * plan.tokens + INTERVAL
    with IntrospectiveLLM.from_pretrained(plan.model, plan.backend, **options) as llm:
        sizes = [size for size in plan.sizes if fits(llm, plan, size)]
        once(llm, replace(plan, growth="samples", tokens=INTERVAL), 1, 0)
        gpu = llm.info.device if plan.backend == "transformers" and llm.info.device.startswith("cuda") else None
        memory, cells = Memory(gpu), Cells(llm.backend)
        rates: dict[int, list[float]] = {size: [] for size in sizes}
        prompt_rates: dict[int, list[float]] = {size: [] for size in sizes}
        rows: dict[int, dict[str, Any]] = {}
        for turn in range(plan.rounds + 1):
            for size in sizes:
                memory.reset()
                cells.most = 0
                spent = once(llm, plan, size, turn)
                if not turn:  # warms up too
                    held = spent.held * bytes_per_token(llm, plan)
                    rows[size] = {plan.growth: size, "peak_bytes": memory.grown(), "keys_values_bytes": held}
                    if hasattr(llm.backend, "used_cells"):
                        rows[size]["cells"] = cells.most
                    continue
                rates[size].append(spent.generated / spent.seconds)
                if spent.prompt_rate is not None:
                    prompt_rates[size].append(spent.prompt_rate)
        for size, row in rows.items():
            row["tokens_per_second"] = statistics.median(rates[size])
            row["relative"] = row["tokens_per_second"] / rows[sizes[0]]["tokens_per_second"]
            if prompt_rates[size]:
                row["prompt_tokens_per_second"] = statistics.median(prompt_rates[size])
        return {
            "growth": plan.growth,
            "model": Path(plan.model).name,
            **{name: value for name, value in asdict(llm.info).items() if name in ("backend", "parameters", "dtype")},
            "device": device_name(llm.info),
            "bytes_per_token": bytes_per_token(llm, plan),
            "left_out": [size for size in plan.sizes if size not in sizes],
            "rows": list(rows.values()),
        }


def once(llm: IntrospectiveLLM, plan: Plan, size: int, seed: int) -> Spent:
    """Generate what a row asks for."""
    if plan.growth == "length":
        return lengthen(llm.backend, size, plan.tokens, seed)
    prompts, samples = (size, 1) if plan.growth == "prompts" else (1, size)
    asked = hardest(prompts)
    begun = time.perf_counter()
    results = llm.batch(asked, strategy="best_of_n", max_samples=samples, max_new_tokens=plan.tokens, seed=seed)
    seconds = time.perf_counter() - begun
    generated = sum(result.usage.generated_tokens for result in results)
    return Spent(generated, seconds, generated + sum(result.usage.prompt_tokens for result in results))


def lengthen(backend: Backend, length: int, tokens: int, seed: int) -> Spent:
    """Samples of a prompt of so many tokens."""
    prompt = np.resize(backend.encode(hardest(1)[0]), length).tolist()
    begun = time.perf_counter()
    (root,) = backend.prefill([prompt])
    started = time.perf_counter()
    sequences = backend.fork(root.sequence, range(SAMPLES_OF_LENGTH), SamplingParams(seed=seed))
    generated, going = 0, sequences
    for done in range(0, tokens, INTERVAL):
        drawn = backend.advance(going, [min(INTERVAL, tokens - done)] * len(going))
        generated += sum(len(item.tokens) for item in drawn)
        going = [sequence for sequence, item in zip(going, drawn, strict=True) if not item.finished]
    seconds = time.perf_counter() - started
    backend.release([root.sequence, *sequences])
    return Spent(generated, seconds, length + generated, length / (started - begun))


def hardest(count: int) -> list[str]:
    """Problems of the hardest tier, whose answers are the longest."""
    return [problem.prompt for problem in held_out(9, 5 * count) if problem.tier == 5][:count]


def fits(llm: IntrospectiveLLM, plan: Plan, size: int) -> bool:
    """Whether a row fits the context of a model."""
    return plan.growth != "length" or size + plan.tokens <= llm.info.max_context


def bytes_per_token(llm: IntrospectiveLLM, plan: Plan) -> int:
    """What the keys and values of one token take."""
    backend: Any = llm.backend
    if plan.backend != "transformers":
        return int(backend._model.bytes_per_cell(4 if llm.info.dtype == "f32" else 2))
    import torch

    config = backend._decoder.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    layers = sum(kind in ("full_attention", "sliding_attention") for kind in kinds)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * layers * config.num_key_value_heads * width * getattr(torch, llm.info.dtype).itemsize)


def long_model(folder: Path, gguf: bool) -> Path:
    """A model of random weights with a long context; as GGUF it is Q8_0."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,  # so many that the end of the sequence is hardly ever drawn
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    directory, file = folder / "random", folder / "random-q8_0.gguf"
    if not directory.exists():
        Qwen3ForCausalLM(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        JointGrid.paper(VOCABULARY - 64).save(directory)
    if gguf and not file.exists():
        exporter("gguf").export(directory, file, "q8_0")
    return file if gguf else directory


def apart(plan: Plan) -> dict[str, Any]:
    """`measure` in a new process, so that no memory of another measurement is counted."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, plan).result()


def printed(found: dict[str, Any]) -> str:
    """The table of one backend and one kind of growth."""
    growth = found["growth"]
    header = [growth, "tokens/s", "to the first row"]
    header += ["prompt, tokens/s"] if growth == "length" else []
    header += ["memory beyond the model, MiB", "keys and values alone, MiB"]
    header += ["cells"] if "cells" in found["rows"][0] else []
    rows = []
    for row in found["rows"]:
        cells = [row[growth], f"{row['tokens_per_second']:,.0f}", f"{row['relative']:.2f}"]
        cells += [f"{row['prompt_tokens_per_second']:,.0f}"] if growth == "length" else []
        cells += [f"{row['peak_bytes'] / MIB:,.1f}", f"{row['keys_values_bytes'] / MIB:,.1f}"]
        rows.append([*cells, *([f"{row['cells']:,}"] if "cells" in row else [])])
    title = (
        f"{found['backend']}, {found['model']}, {found['parameters'] / 1e6:.1f}M parameters, {found['dtype']}, "
        f"{found['device']}, {found['bytes_per_token']:,} bytes of keys and values a token"
    )
    left_out = ", ".join(map(str, found["left_out"]))
    note = f"\n\nleft out, beyond the context of the model: {left_out}" if left_out else ""
    return f"{title}\n\n{table(header, rows)}{note}\n"


def main() -> None:
    """Print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a directory or GGUF file (default: the embedded and a random one)")
    parser.add_argument(
        "--backends", nargs="+", default=None, help="transformers, llama-cpp (default: those installed)"
    )
    parser.add_argument("--prompts", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--length", type=int, nargs="*", default=[256, 1024, 2048, 4096], help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="of a sample, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto", help="of transformers: auto is cuda where there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="of transformers")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    installed = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    if options.model:
        installed = ["llama-cpp" if options.model.endswith(".gguf") else "transformers"]
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends or installed:
            gguf = backend == "llama-cpp"
            for growth in ("prompts", "samples", "length"):
                sizes = tuple(sorted(getattr(options, growth)))
                if not sizes:
                    continue
                own = long_model(Path(folder), gguf) if growth == "length" else DEMO_GGUF if gguf else DEMO_MODEL
                plan = Plan(
                    model=options.model or str(own),
                    backend=backend,
                    growth=growth,
                    sizes=sizes,
                    tokens=options.tokens,
                    rounds=options.rounds,
                    device=options.device,
                    dtype=options.dtype,
                    threads=options.threads,
                )
                report.append(apart(plan))
                print(printed(report[-1]), flush=True)
    write(options.out, {"measured": report})


if __name__ == "__main__":
    main()
