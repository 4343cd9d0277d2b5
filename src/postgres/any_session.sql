-- Whether a session is still in the table that revoke_everyone.sql should have deleted.
SELECT EXISTS (SELECT FROM :sessions AS s)
