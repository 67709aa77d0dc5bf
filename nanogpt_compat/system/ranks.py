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

    Raises:
        UsageError: the rank cannot be found, or is out of range.
    """
    number, size = rank, world_size
    if rank == "auto":
        task, count = environment.get("SLURM_ARRAY_TASK_ID"), environment.get("SLURM_ARRAY_TASK_COUNT")
        if task is not None and world_size is not None:
            number = task
        elif task is not None:
            first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", "0")) for name in ("MIN", "STEP"))
            number = str((int(task) - first) // max(1, step))
            size = None if count is None else int(count)
        elif "JOB_COMPLETION_INDEX" in environment:
            number = environment["JOB_COMPLETION_INDEX"]
        elif "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
            number, size = environment["SLURM_PROCID"], world_size or int(environment["SLURM_NTASKS"])
        else:
            raise UsageError(
                "--rank auto: none of SLURM_ARRAY_TASK_ID, SLURM_PROCID and JOB_COMPLETION_INDEX is set; "
                "give --rank R --world-size N"
            )
    try:
        index = int(number)
    except ValueError:
        raise UsageError(f"--rank {number} is neither a number nor auto") from None
    if size is None:
        raise UsageError(f"--rank {rank} needs --world-size N, the number of ranks")
    if not 0 <= index < size:
        raise UsageError(
            f"--rank {index} of {size} does not exist: ranks go from 0 to {size - 1}. To run some tasks of "
            "an array again, give the --world-size of the whole array: a task's number is then its rank"
        )
    return index, size
