"""Speed, memory and scaling, always as ratios within one run."""
