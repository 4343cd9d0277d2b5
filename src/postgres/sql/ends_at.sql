-- The absolute limit of the session s. It is the earlier of two limits: the limit that was set at
-- the sign-in, and the limit of the store.
least(s.expires_at, s.created_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :absolute_seconds))
