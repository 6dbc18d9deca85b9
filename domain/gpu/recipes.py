"""Entries of the catalog from vLLM's own recipes (vllm-project/recipes, ``models/<organisation>/<model>.yaml``).

A recipe has variants, each with the memory that it needs over all GPUs together, and arguments that depend on the
generation of the GPU. Only what one machine with NVIDIA GPUs can serve, and answers completions, becomes an entry.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.entity import Value
from domain.errors import BadInput, Rejected
from domain.gpu.arguments import check_argument
from domain.gpu.catalog import ModelConfiguration, ModelEntry

#: The recipes' names of NVIDIA GPUs -> type (``inventory.gpu_type``), generation.
_GPUS = {
    "h100": ("H100", "hopper"),
    "h200": ("H200", "hopper"),
    "b200": ("B200", "blackwell"),
    "gb200": ("GB200", "blackwell"),
    "b300": ("B300", "blackwell"),
    "gb300": ("GB300", "blackwell"),
    "dgx_station_gb300": ("GB300", "blackwell"),
    "dgx_spark_gb10": ("GB10", "blackwell"),
    "rtx_pro_6000": ("RTX PRO 6000", "blackwell"),
    "rtx_pro_6000_2x": ("RTX PRO 6000", "blackwell"),
    "rtx_pro_6000_8x": ("RTX PRO 6000", "blackwell"),
    "rtx_pro_5000": ("RTX PRO 5000", "blackwell"),
    "rtx_pro_5000_4x": ("RTX PRO 5000", "blackwell"),
    "rtx_5090": ("RTX 5090", "blackwell"),
    "rtx_5090_2x": ("RTX 5090", "blackwell"),
    "rtx_4090_2x": ("RTX 4090", "ada"),
}
#: Quantisations that only this generation computes with, unless a variant says otherwise.
_ONLY_BLACKWELL = frozenset({"nvfp4", "fp4"})
#: Counts of GPUs over which a model is split where its recipe names none.
_COUNTS = (1, 2, 4, 8)
#: GB of the largest GPU there is: what needs more of each is not for one machine.
_LARGEST_GPU_GB = 288
_TASKS = frozenset({"text", "multimodal"})
_STRATEGIES: dict[str, Sequence[str]] = {
    "single_node_tp": ("--tensor-parallel-size", "{count}"),
    "single_node_tep": ("--tensor-parallel-size", "{count}", "--enable-expert-parallel"),
    "single_node_dep": ("--data-parallel-size", "{count}", "--enable-expert-parallel"),
}


class Skipped(Value):
    """A recipe, or a variant of one, that did not become an entry."""

    what: str
    why: str


class RecipeEntry(Value):
    """What a recipe says of one model id. ``is_own``: the recipe is about this id, not only a variant of it is."""

    model: str
    entry: ModelEntry
    is_own: bool


class _Settings(NamedTuple):
    """How a variant is served on some GPUs."""

    counts: tuple[int, ...]
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


class _Part(BaseModel):
    """A part of a recipe; what else stands there is for others."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class _Override(_Part):
    extra_args: tuple[str, ...] = ()
    extra_env: dict[str, str] = Field(default_factory=dict)


class _Constraint(_Part):
    brand: str = "NVIDIA"
    generation: str | None = None


class _Variant(_Part):
    model_id: str | None = None
    precision: str = ""
    vram_minimum_gb: float = Field(gt=0)
    min_vllm_version: str | None = None
    tp: int | dict[str, int] | None = None
    extra_args: tuple[str, ...] = ()
    extra_env: dict[str, str] = Field(default_factory=dict)
    supported_hardware: tuple[str, ...] = ()
    precision_hardware: _Constraint | None = None
    hardware_overrides: dict[str, _Override] = Field(default_factory=dict)


class _Mode(_Part):
    args: tuple[str, ...] = ()


class _Feature(_Mode):
    default_mode: str | None = None
    modes: dict[str, _Mode] = Field(default_factory=dict)


class _Model(_Part):
    model_id: str
    min_vllm_version: str | None = None
    base_args: tuple[str, ...] = ()
    base_env: dict[str, str] = Field(default_factory=dict)


class _Meta(_Part):
    tasks: tuple[str, ...] = ()
    hardware: dict[str, str] = Field(default_factory=dict)


class _StrategyOverride(_Part):
    tp: int | dict[str, int] | None = None


class _Recipe(_Part):
    meta: _Meta = _Meta()
    model: _Model
    #: Read one by one: a broken one does not hide the others.
    variants: dict[str, object]
    features: dict[str, _Feature] = Field(default_factory=dict)
    compatible_strategies: tuple[str, ...] = ()
    default_strategy: str | None = None
    hardware_overrides: dict[str, _Override] | None = None
    strategy_overrides: dict[str, _StrategyOverride] | None = None


def recipe_entries(content: object, name: str) -> tuple[list[RecipeEntry], list[Skipped]]:
    """Return the entries that one recipe (parsed YAML) gives, and what of it gives none and why."""
    try:
        recipe = _Recipe.model_validate(content)
    except ValidationError as error:
        return [], [Skipped(what=name, why=_problem(error))]
    tasks = [task for task in recipe.meta.tasks if task not in _TASKS]
    if tasks:
        return [], [Skipped(what=name, why=f"it is for {' and '.join(tasks)}: only completions are served")]
    strategies = [s for s in (recipe.default_strategy, *_STRATEGIES) if s in recipe.compatible_strategies]
    strategy = next((s for s in strategies if s in _STRATEGIES), None)
    if strategy is None:
        return [], [Skipped(what=name, why="it is not served on one machine")]
    entries, skipped = [], []
    for key, variant in recipe.variants.items():
        try:
            entries.append(_variant_entry(recipe, variant, strategy))
        except Rejected as rejected:
            skipped.append(Skipped(what=f"{name}, variant {key}", why=rejected.message))
        except (BadInput, ValidationError) as error:
            skipped.append(Skipped(what=f"{name}, variant {key}", why=_problem(error)))
    return entries, skipped


def _variant_entry(recipe: _Recipe, content: object, strategy: str) -> RecipeEntry:
    """Raises BadInput, or ValidationError for what is not as it should be."""
    variant = _Variant.model_validate(content)
    kinds, others = _allowed(recipe, variant)
    groups: dict[_Settings, list[str]] = {}
    for gpu, (kind, generation) in _GPUS.items():
        if kind in kinds and not any(kind in group for group in groups.values()):
            settings = _settings(recipe, variant, (gpu, generation, "nvidia", "default"))
            groups.setdefault(settings, []).append(kind)
    if others:
        rest = _settings(recipe, variant, ("nvidia", "default"))
        groups.pop(rest, None)
        groups[rest] = []
    configurations = tuple(
        configuration
        for settings, group in groups.items()
        for configuration in _configurations(variant, strategy, tuple(group), settings)
    )
    if not configurations:
        raise BadInput(f"{variant.vram_minimum_gb:g} GB are more than the GPUs of one machine have")
    for argument in (argument for configuration in configurations for argument in configuration.arguments):
        check_argument(argument)
    version = variant.min_vllm_version or recipe.model.min_vllm_version
    entry = ModelEntry(configurations=configurations, prefers="fewest_gpus", min_vllm_version=version)
    model = variant.model_id or recipe.model.model_id
    return RecipeEntry(model=model, entry=entry, is_own=model == recipe.model.model_id)


def _problem(error: BadInput | ValidationError) -> str:
    if isinstance(error, BadInput):
        return str(error)
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{f'{field}: ' if field else ''}{first['msg']}" + (
        f" ({first['input']!r:.80})" if isinstance(first["input"], str | int | float) else ""
    )


def _allowed(recipe: _Recipe, variant: _Variant) -> tuple[frozenset[str], bool]:
    """Return the known types of GPU that a variant runs on, and whether it also runs on others."""
    kinds = frozenset(kind for kind, _ in _GPUS.values())
    others = True
    if variant.supported_hardware:
        kinds = frozenset(_GPUS[gpu][0] for gpu in variant.supported_hardware if gpu in _GPUS)
        others = False
    needed = variant.precision_hardware
    if needed is None and variant.precision in _ONLY_BLACKWELL:
        needed = _Constraint(generation="blackwell")
    if needed is not None and (needed.generation or needed.brand != "NVIDIA"):
        kinds &= {k for k, generation in _GPUS.values() if needed.brand == "NVIDIA" and generation == needed.generation}
        others = False
    refused = {_GPUS[gpu][0] for gpu, how in recipe.meta.hardware.items() if how == "unsupported" and gpu in _GPUS}
    if refused:
        kinds -= refused
        others = False
    if not kinds:
        names = ", ".join(variant.supported_hardware) or f"{variant.precision} on other hardware"
        raise BadInput(f"it is for {names}, none of which is an NVIDIA GPU that it runs on")
    return kinds, others


def _settings(recipe: _Recipe, variant: _Variant, keys: Sequence[str]) -> _Settings:
    """Return what holds on a GPU; ``keys`` name it, the nearest first."""
    overrides = [
        next((table[key] for key in keys if key in table), _Override())
        for table in (recipe.hardware_overrides or {}, variant.hardware_overrides)
    ]
    features = [recipe.features[name] for name in ("tool_calling", "reasoning") if name in recipe.features]
    arguments = [*recipe.model.base_args, *variant.extra_args]
    environment = {**recipe.model.base_env, **variant.extra_env}
    for override in overrides:
        arguments += override.extra_args
        environment |= override.extra_env
    for feature in features:
        mode = feature.modes.get(feature.default_mode or "") or next(iter(feature.modes.values()), feature)
        arguments += mode.args
    declared = (recipe.strategy_overrides or {}).get("single_node_tp", _StrategyOverride()).tp
    count = _count(variant.tp, keys) or _count(declared, keys)
    return _Settings((count,) if count else _COUNTS, _last_of_each(arguments), tuple(sorted(environment.items())))


def _count(declared: int | Mapping[str, int] | None, keys: Sequence[str]) -> int | None:
    if isinstance(declared, Mapping):
        return next((declared[key] for key in keys if key in declared), None)
    return declared


def _configurations(
    variant: _Variant, strategy: str, kinds: tuple[str, ...], settings: _Settings
) -> list[ModelConfiguration]:
    return [
        ModelConfiguration(
            gpus=count,
            types=kinds,
            minimum_memory_gb=round(variant.vram_minimum_gb / count, 1),
            arguments=_last_of_each([*_split(strategy, count), *settings.arguments]),
            environment=dict(settings.environment),
        )
        for count in settings.counts
        if variant.vram_minimum_gb / count <= _LARGEST_GPU_GB
    ]


def _split(strategy: str, count: int) -> tuple[str, ...]:
    return tuple(part.format(count=count) for part in _STRATEGIES[strategy]) if count > 1 else ()


def _last_of_each(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments with each option once, as it was given last: vLLM takes that one too."""
    options: dict[str, tuple[str, ...]] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.partition("=")[0]
            options.pop(option, None)
            options[option] = (argument,)
        else:
            options[option] = (*options.get(option, ()), argument)
    return tuple(argument for words in options.values() for argument in words)
