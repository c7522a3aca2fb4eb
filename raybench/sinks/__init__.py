"""Where finished rows are shown besides: MLflow, Weights & Biases, Optuna Dashboard. Each is written from rows alone.

Nothing here runs while trials do. A sink is brought up to date by a command, as often as one likes: what it has it
keeps, what is missing is written, so that two times are once. Their packages are extras, imported when used.
"""
