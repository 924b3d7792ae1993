"""The networks that a plan can be made for: the sizes of Qwen2.5-Coder, by the figures of their config.json."""

from __future__ import annotations

from dataclasses import dataclass

from keyahead.engine.store import SetupError

BYTES_16_BIT = 2


@dataclass(frozen=True, slots=True)
class Network:
    """A dense Qwen2 decoder; fields are named as in `config.json`."""

    name: str
    repository: str
    """On the Hugging Face hub."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    open_licence: bool = True
    """Apache-2.0. Otherwise the operator has to say that the licence allows the use."""
    head_dim: int = 128
    max_position_embeddings: int = 32768

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' matrices: what quantization makes smaller."""
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * queries + 2 * keys)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix; the embedding has as many, and is the same matrix if they are tied."""
        return self.vocab_size * self.hidden_size

    def adapter_values(self, module: str) -> int:
        """Values of an adapter of rank 1 for a module of one layer, by Hugging Face's name: what goes into it and what comes out."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        widths = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": queries}
        return self.hidden_size + widths.get(module, self.intermediate_size)

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value of every layer in 16 bits."""
        return 2 * BYTES_16_BIT * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def differences(self, config: dict[str, object]) -> list[str]:
        """What a checkpoint's `config.json` says otherwise, one clause each."""
        expected = {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        # transformers leaves out what is at its default, and an untied head is Qwen2's.
        found = {"tie_word_embeddings": False, **config}
        return [f"{key} is {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value]


_NETWORKS = (
    Network("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B", 896, 4864, 24, 14, 2, 151936, True, head_dim=64),
    Network("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-Coder-1.5B", 1536, 8960, 28, 12, 2, 151936, True),
    Network("qwen2.5-coder-3b", "Qwen/Qwen2.5-Coder-3B", 2048, 11008, 36, 16, 2, 151936, True, open_licence=False),
    Network("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B", 3584, 18944, 28, 28, 4, 152064, False),
)
NETWORKS = {network.name: network for network in _NETWORKS}


def get(name: str) -> Network:
    """The network of that name; SetupError lists the names if there is none."""
    if name not in NETWORKS:
        raise SetupError(f"There is no GPU plan for {name!r}: choose one of {', '.join(NETWORKS)}.")
    return NETWORKS[name]
