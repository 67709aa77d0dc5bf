"""Find the rank of this process, from --rank or a scheduler's variables."""

from collections.abc import Mapping

from nanogpt_compat.errors import UsageError


def rank_of(rank: str, world_size: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (rank, world size); with `auto`, from the variables of Slurm or Kubernetes.

    A job array may start at any number. If `world_size` is given, the array may be a part of it, and a task's
    number is its rank.

    >>> array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
    >>> rank_of("auto", None, array), rank_of("auto", 8, array), rank_of("0", 2, {})
    ((2, 4), (7, 8), (0, 2))
    """
    index, size = 0, world_size
    if rank != "auto":
        try:
            index = int(rank)
        except ValueError:
            raise UsageError(f"--rank {rank} is neither a number nor auto") from None
    elif "SLURM_ARRAY_TASK_ID" in environment:
        index = _number("SLURM_ARRAY_TASK_ID", environment)
        if world_size is None:
            first, step = (_number(f"SLURM_ARRAY_TASK_{name}", environment, "0") for name in ("MIN", "STEP"))
            index = (index - first) // max(1, step)
            if "SLURM_ARRAY_TASK_COUNT" in environment:
                size = _number("SLURM_ARRAY_TASK_COUNT", environment, least=1)
    elif "JOB_COMPLETION_INDEX" in environment:
        index = _number("JOB_COMPLETION_INDEX", environment)
    elif "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        index = _number("SLURM_PROCID", environment)
        size = world_size or _number("SLURM_NTASKS", environment, least=1)
    else:
        raise UsageError(
            "--rank auto: none of SLURM_ARRAY_TASK_ID, SLURM_PROCID and JOB_COMPLETION_INDEX is set; "
            "give --rank R --world-size N"
        )
    if size is None:
        raise UsageError(f"--rank {rank} needs --world-size N, the number of ranks")
    if not 0 <= index < size:
        raise UsageError(
            f"--rank {index} of {size} does not exist: ranks go from 0 to {size - 1}. To run some tasks of "
            "an array again, give the --world-size of the whole array: a task's number is then its rank"
        )
    return index, size


def _number(name: str, environment: Mapping[str, str], default: str = "", *, least: int = 0) -> int:
    """Return the number in a scheduler's variable; raise a UsageError if it is none, or too small."""
    value = environment.get(name, default)
    try:
        number = int(value)
        why = f"; it must be at least {least}" if number < least else ""
    except ValueError:
        number, why = 0, ", which is not a number"
    if why:
        raise UsageError(f"--rank auto: {name} is {value!r}{why}; give --rank R --world-size N")
    return number
