"""An OpenAI-compatible HTTP endpoint over the base models and adapters of this machine: `localhyper serve`."""
