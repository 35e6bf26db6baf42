"""The fronts apptainer and singularity: Apptainer's command line."""
