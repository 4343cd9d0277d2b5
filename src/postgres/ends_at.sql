-- When the absolute limit of the session s passes: the one that was set when it began, or the store's, if that has been
-- shortened since.
least(s.expires_at, s.created_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :absolute_seconds))
