"""Meta-policies, one a file. Importing this package registers ours; `register` adds a third party's."""

from zip_introspect.strategies.base import Finished, Leaf, MetaAction, MetaState, Strategy, get, names, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.majority_vote import MajorityVote
from zip_introspect.strategies.single import Single
from zip_introspect.strategies.zip_rc import ZipRC

__all__ = [
    "BestOfN",
    "Finished",
    "Leaf",
    "MajorityVote",
    "MetaAction",
    "MetaState",
    "Single",
    "Strategy",
    "ZipRC",
    "get",
    "names",
    "register",
]
