"""Language models that say, at every token, how likely they are to be right and how many tokens they still need.

from zip_introspect import Budget, IntrospectiveLLM

llm = IntrospectiveLLM.demo()
out = llm.generate("Solve 3*x+5=35", budget=Budget(max_samples=8, max_tokens=2_000))
out.answer, out.confidence, out.usage
"""

from zip_introspect.answers.extraction import AnswerExtractor, after_marker, boxed, default_extractor, last_number
from zip_introspect.backend.contract import Backend, BackendInfo
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig, SamplingParams, Thinking
from zip_introspect.errors import (
    BackendError,
    BackendNotInstalledError,
    BudgetError,
    CalibrationError,
    ConfigError,
    EscalationError,
    GridError,
    HeadError,
    ModelLoadError,
    NonFiniteLogitsError,
    PromptError,
    ReservedTokensError,
    TrainingDataError,
    ZipIntrospectError,
)
from zip_introspect.escalation.ladder import Ladder
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import Reply
from zip_introspect.escalation.rung import Rung
from zip_introspect.events import (
    DecisionMade,
    Event,
    HandedOn,
    SampleAdvanced,
    SampleFinished,
    SearchFailed,
    SearchFinished,
    SearchStarted,
)
from zip_introspect.framing import Framing, WorkedExample
from zip_introspect.heads.head import Head
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Message, Prompt
from zip_introspect.result import (
    Attempt,
    Decision,
    EscalationResult,
    GenerationResult,
    IntrospectionResult,
    Outlook,
    SampleResult,
    Thought,
    TokenConfidence,
    TracePoint,
    Usage,
    UtilityReport,
)
from zip_introspect.search.request import HandOn
from zip_introspect.shared_budget import SharedBudget

__version__ = "0.1.0"

__all__ = [
    "AnswerExtractor",
    "Attempt",
    "Backend",
    "BackendError",
    "BackendInfo",
    "BackendNotInstalledError",
    "Budget",
    "BudgetError",
    "Calibration",
    "CalibrationError",
    "ConfigError",
    "Decision",
    "DecisionMade",
    "EscalationError",
    "EscalationPolicy",
    "EscalationResult",
    "Event",
    "Framing",
    "GenerationConfig",
    "GenerationResult",
    "GridError",
    "HandOn",
    "HandedOn",
    "Head",
    "HeadError",
    "IntrospectionResult",
    "IntrospectiveLLM",
    "JointGrid",
    "Ladder",
    "Message",
    "ModelLoadError",
    "NonFiniteLogitsError",
    "Outlook",
    "Prompt",
    "PromptError",
    "Reply",
    "ReservedTokensError",
    "Rung",
    "SampleAdvanced",
    "SampleFinished",
    "SampleResult",
    "SamplingParams",
    "SearchFailed",
    "SearchFinished",
    "SearchStarted",
    "SharedBudget",
    "Thinking",
    "Thought",
    "TokenConfidence",
    "TracePoint",
    "TrainingDataError",
    "Usage",
    "UtilityReport",
    "WorkedExample",
    "ZipIntrospectError",
    "after_marker",
    "boxed",
    "default_extractor",
    "last_number",
]
