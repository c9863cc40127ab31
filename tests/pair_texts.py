"""Queries and documents that tests score: empty, long, and in the scripts of the world."""

MAX_LENGTH = 64

TRAINING_TEXTS = [
    "The quick brown fox jumps over the lazy dog, 1234567890 times; who would count them?",
    "Turing proposed a test of intelligence in 1950. Logic Theorist proved theorems in 1956!",
    "vector search returns candidates and a cross-encoder reads query and document together",
    "Zürich, café, naïve, Ελληνικά, русский, 中文字符, 日本語テキスト, 한국어, العربية, עברית, 🙂🚀",
    "(e=mc²) [x] {y} <z>",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2",
]

TEXTS = [
    "",
    "a",
    ".",
    "?!... --- ,,,",
    "the of and",
    "cross-encoder",
    "Turing proposed a test in 1950.",
    "🙂🚀 emoji only 🚀",
    "中文字符 和 日本語テキスト",
    "العربية من اليمين עברית מימין",
    "Zürich café naïve — “quoted” …",
    "tab\tnew\nline   spaces  ",
    " ".join(["vector"] * 20),
    " ".join(["search returns candidates"] * 15),
    " ".join(["the lazy dog jumps over the quick brown fox 1234"] * 40),
]

QUERIES = ["who proposed a test of intelligence", "", "中文", " ".join(["query longer than the limit"] * 30)]
