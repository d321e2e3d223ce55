"""The recipe of a run and its sections."""

from sensekd.config.comparing import (
    ARMS,
    TUNABLE,
    CompareConfig,
    DevelopmentConfig,
    RangeConfig,
    SensitivityConfig,
    TuneConfig,
)
from sensekd.config.inputs import (
    CorpusConfig,
    LexiconConfig,
    LexiconSource,
    LinkingConfig,
    RespondConfig,
    SensesConfig,
    TeacherConfig,
)
from sensekd.config.recipe import (
    Recipe,
    arm_recipe,
    arm_settings,
    corpus_from,
    load_recipe,
    parse_override,
    recipe_from_tree,
)
from sensekd.config.training import (
    CacheConfig,
    EvaluationConfig,
    LoraConfig,
    LossConfig,
    PositionsConfig,
    StudentConfig,
    TrainingConfig,
)

__all__ = [
    "ARMS",
    "TUNABLE",
    "CacheConfig",
    "CompareConfig",
    "CorpusConfig",
    "DevelopmentConfig",
    "EvaluationConfig",
    "LexiconConfig",
    "LexiconSource",
    "LinkingConfig",
    "LoraConfig",
    "LossConfig",
    "PositionsConfig",
    "RangeConfig",
    "Recipe",
    "RespondConfig",
    "SensesConfig",
    "SensitivityConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainingConfig",
    "TuneConfig",
    "arm_recipe",
    "arm_settings",
    "corpus_from",
    "load_recipe",
    "parse_override",
    "recipe_from_tree",
]
