"""What a joint is and what it is worth: grids, joints, the utility of sampling, plans, calibration."""
