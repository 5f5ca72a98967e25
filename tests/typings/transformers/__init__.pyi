"""The names that this repository takes from transformers, for pyright.

Transformers' own `__init__` imports the modules of all models, which takes pyright a minute. Each name here is the
library's; a name that is missing here is an error of pyright, and is added.
"""

from transformers.generation.configuration_utils import ContinuousBatchingConfig as ContinuousBatchingConfig
from transformers.generation.configuration_utils import GenerationConfig as GenerationConfig
from transformers.generation.logits_process import EpsilonLogitsWarper as EpsilonLogitsWarper
from transformers.generation.logits_process import EtaLogitsWarper as EtaLogitsWarper
from transformers.generation.logits_process import LogitsProcessor as LogitsProcessor
from transformers.generation.logits_process import LogitsProcessorList as LogitsProcessorList
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor as MinNewTokensLengthLogitsProcessor,
)
from transformers.generation.logits_process import MinPLogitsWarper as MinPLogitsWarper
from transformers.generation.logits_process import NoBadWordsLogitsProcessor as NoBadWordsLogitsProcessor
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor as NoRepeatNGramLogitsProcessor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor as RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor as SuppressTokensAtBeginLogitsProcessor,
)
from transformers.generation.logits_process import SuppressTokensLogitsProcessor as SuppressTokensLogitsProcessor
from transformers.generation.logits_process import TemperatureLogitsWarper as TemperatureLogitsWarper
from transformers.generation.logits_process import TopKLogitsWarper as TopKLogitsWarper
from transformers.generation.logits_process import TopPLogitsWarper as TopPLogitsWarper
from transformers.generation.logits_process import TypicalLogitsWarper as TypicalLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteria as StoppingCriteria
from transformers.generation.stopping_criteria import StoppingCriteriaList as StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria as StopStringCriteria
from transformers.generation.streamers import TextIteratorStreamer as TextIteratorStreamer
from transformers.generation.streamers import TextStreamer as TextStreamer
from transformers.modeling_utils import AttentionInterface as AttentionInterface
from transformers.modeling_utils import PreTrainedModel as PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig as AutoConfig
from transformers.models.auto.modeling_auto import AutoModel as AutoModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM as AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer as AutoTokenizer
from transformers.models.bert.configuration_bert import BertConfig as BertConfig
from transformers.models.bert.modeling_bert import BertModel as BertModel
from transformers.models.gpt2.configuration_gpt2 import GPT2Config as GPT2Config
from transformers.models.gpt_neox.configuration_gpt_neox import GPTNeoXConfig as GPTNeoXConfig
from transformers.models.llama.configuration_llama import LlamaConfig as LlamaConfig
from transformers.models.mistral.configuration_mistral import MistralConfig as MistralConfig
from transformers.models.opt.configuration_opt import OPTConfig as OPTConfig
from transformers.models.opt.modeling_opt import OPTForCausalLM as OPTForCausalLM
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config as Qwen2Config
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config as Qwen3Config
from transformers.tokenization_utils_base import PreTrainedTokenizerBase as PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast as PreTrainedTokenizerFast
