"""The models, one paper each."""
from .nrms import NRMS
from .naml import NAML
from .lstur import LSTUR
from .nram import NRAM
from .npa import NPA
from .miner import MINER
from .caum import CAUM
from .pprec import PPRec
from .tccm import TCCM
from .crown import CROWN
from .digat import DIGAT
from .glory import GLORY
