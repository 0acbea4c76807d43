"""One run from configuration to record: python -m runner +stage=step07."""
