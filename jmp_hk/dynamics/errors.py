"""What can go wrong when atoms are moved."""


class DynamicsError(RuntimeError):
  """Atoms cannot be moved any further; the message says why and what to do."""


class OtherRunError(ValueError):
  """A restart file or a trajectory belongs to something else."""
