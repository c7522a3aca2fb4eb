"""What a trial is, what a sweep is, and how a YAML file becomes cells and trials. Imports neither torch nor ray."""
