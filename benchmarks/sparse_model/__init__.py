"""A language model with routed experts, small and really trained, and what quantizing it costs."""
