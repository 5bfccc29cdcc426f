"""Where training happens: in this process, in others, or on a Ray cluster. The search sees no difference."""
