"""What proposes candidates, and what stops their training early."""
