-- The absolute limit of the session s: the limit that was set at the sign-in, or the limit of the
-- store if that is earlier.
least(s.expires_at, s.created_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :absolute_seconds))
