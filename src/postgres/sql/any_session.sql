-- Returns whether the table still contains a session, which revoke_everyone.sql should have
-- deleted.
SELECT EXISTS (SELECT FROM :sessions AS s)
