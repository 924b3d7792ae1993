"""Language identifiers: one normal spelling for what editors and file names say."""

from __future__ import annotations

from functools import lru_cache

# LSP identifiers (LSP 3.17, TextDocumentItem) and common nicknames whose code trims alike.
_ALIASES = {
    "bash": "shell",
    "c#": "csharp",
    "c++": "cpp",
    "cuda": "cpp",
    "cuda-cpp": "cpp",
    "golang": "go",
    "javascriptreact": "javascript",
    "jsonc": "json",
    "jsx": "javascript",
    "objective-c": "c",
    "objective-cpp": "cpp",
    "py": "python",
    "sass": "scss",
    "shellscript": "shell",
    "tsx": "typescript",
    "typescriptreact": "typescript",
    "xsl": "xml",
    "zsh": "shell",
}

_BY_NAME = {
    "cmakelists.txt": "cmake",
    "containerfile": "dockerfile",
    "dockerfile": "dockerfile",
    "gemfile": "ruby",
    "gnumakefile": "makefile",
    "makefile": "makefile",
    "rakefile": "ruby",
}

_EXTENSIONS = {
    "c": "c h",
    "cmake": "cmake",
    "cpp": "cc cpp cxx hh hpp hxx cu cuh",
    "csharp": "cs",
    "css": "css",
    "dart": "dart",
    "elixir": "ex exs",
    "go": "go",
    "haskell": "hs",
    "html": "html htm",
    "java": "java",
    "javascript": "js cjs mjs jsx",
    "json": "json jsonc",
    "julia": "jl",
    "kotlin": "kt kts",
    "less": "less",
    "lua": "lua",
    "makefile": "mk",
    "markdown": "md markdown",
    "perl": "pl pm",
    "php": "php",
    "plaintext": "txt",
    "proto": "proto",
    "python": "py pyi",
    "r": "r",
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala sc",
    "scss": "scss sass",
    "shell": "sh bash zsh",
    "sql": "sql",
    "svelte": "svelte",
    "swift": "swift",
    "toml": "toml",
    "typescript": "ts cts mts tsx",
    "vue": "vue",
    "xml": "xml svg xsl",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_EXTENSION = {extension: language for language, extensions in _EXTENSIONS.items() for extension in extensions.split()}


@lru_cache(1024)  # Asked with every key, mostly about a few files.
def language_of(path: str, language: str) -> str:
    """The normal identifier of a document's language: what the editor says, else what the file's name says, else ""."""
    said = language.strip().lower()
    if said:
        return _ALIASES.get(said, said)
    name = path.replace("\\", "/").lower().rpartition("/")[2]
    stem, _, extension = name.rpartition(".")
    return _BY_NAME.get(name) or (_BY_EXTENSION.get(extension, "") if stem else "")
