"""Programs that run as processes of their own, so that what they use of the machine is not in what is measured."""
