"""What stands where: diversity, calibration, bounds, exploration, and several rankers as one."""
from .bounds import AtLeast, AtMost, Once
from .calibration import Calibrated
from .diversity import MMR
from .exploration import EpsilonGreedy, Thompson
from .merging import merged
from .popularity import LessPopular
