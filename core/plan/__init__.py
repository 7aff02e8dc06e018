"""The planner: one module a stage, in the order they run. `shapes` is the first."""
