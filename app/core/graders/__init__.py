"""How graders score a response; what they are is in `app.core.spec.graders`. Start with `run`."""
