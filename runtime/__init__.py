"""The ground floor, which knows no task and no model."""
