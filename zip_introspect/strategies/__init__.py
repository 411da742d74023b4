"""Meta-policies, one a file. Importing this package registers ours; `register` adds a third party's."""

from zip_introspect.strategies.adaptive_consistency import AdaptiveConsistency
from zip_introspect.strategies.answer_posterior import AnswerPosterior
from zip_introspect.strategies.base import (
    Finished,
    Leaf,
    MetaAction,
    MetaState,
    Need,
    Strategy,
    Verdict,
    by_need,
    chosen,
    dropping,
    get,
    listed,
    names,
    register,
)
from zip_introspect.strategies.beam_search import BeamSearch
from zip_introspect.strategies.best_of_majority import BestOfMajority
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.deep_conf import DeepConf
from zip_introspect.strategies.early_stopping_consistency import EarlyStoppingConsistency
from zip_introspect.strategies.majority_vote import MajorityVote
from zip_introspect.strategies.opt_scale import OptScale
from zip_introspect.strategies.pass_at_k import PassAtK
from zip_introspect.strategies.single import Single
from zip_introspect.strategies.step_prune import StepPrune
from zip_introspect.strategies.weighted_best_of_n import WeightedBestOfN
from zip_introspect.strategies.zip_rc import ZipRC
from zip_introspect.strategies.zip_rc_reward_pruning import ZipRCRewardPruning

__all__ = [
    "AdaptiveConsistency",
    "AnswerPosterior",
    "BeamSearch",
    "BestOfMajority",
    "BestOfN",
    "DeepConf",
    "EarlyStoppingConsistency",
    "Finished",
    "Leaf",
    "MajorityVote",
    "MetaAction",
    "MetaState",
    "Need",
    "OptScale",
    "PassAtK",
    "Single",
    "StepPrune",
    "Strategy",
    "Verdict",
    "WeightedBestOfN",
    "ZipRC",
    "ZipRCRewardPruning",
    "by_need",
    "chosen",
    "dropping",
    "get",
    "listed",
    "names",
    "register",
]
