"""What every test gets: hypothesis without deadlines, because a busy machine is no failure."""

import hypothesis

hypothesis.settings.register_profile("nova-pi", deadline=None)
hypothesis.settings.load_profile("nova-pi")
