use crate::visit::{
    Act::{Code, Get, OldCode, Post, Recall, Remember, SameCode, SignIn, Sql},
    Rule, check,
};

const OLD: &str = "UPDATE sessions SET authenticated_at = now() - interval '6 minutes'";
const EVE: &str = "Signed in as eve@example.com.";
const CONFIRM: crate::visit::Act = Post("/confirm", "password=correct+horse");
const PAYMENTS: crate::visit::Act = Get("/payments");

/// "Needs a second factor" and "needs a recent proof" hold together.
const RULES: &[Rule] = &[
    ("no session", &[], PAYMENTS, 401, "Sign in", 0),
    ("password only", &[SignIn("eve")], PAYMENTS, 403, EVE, 1),
    (
        "password and code",
        &[SignIn("eve"), Code],
        PAYMENTS,
        200,
        EVE,
        1,
    ),
    (
        "old proof",
        &[SignIn("eve"), Code, Sql(OLD)],
        PAYMENTS,
        401,
        EVE,
        1,
    ),
    (
        "new code",
        &[SignIn("eve"), Code, Sql(OLD), Code],
        PAYMENTS,
        200,
        EVE,
        1,
    ),
    (
        "new password with the old code",
        &[SignIn("eve"), Code, Sql(OLD), CONFIRM],
        PAYMENTS,
        403,
        EVE,
        1,
    ),
    (
        "new password and new code",
        &[SignIn("eve"), Code, Sql(OLD), CONFIRM, Code],
        PAYMENTS,
        200,
        EVE,
        1,
    ),
    (
        "next sign-in",
        &[SignIn("eve"), Code, SignIn("eve")],
        PAYMENTS,
        403,
        EVE,
        1,
    ),
    (
        "a code twice",
        &[SignIn("eve"), Code],
        SameCode,
        403,
        EVE,
        1,
    ),
    ("an old code", &[SignIn("eve")], OldCode, 403, EVE, 1),
    (
        "a wrong code",
        &[SignIn("eve")],
        Post("/code", "code=x"),
        403,
        EVE,
        1,
    ),
    ("no session for a code", &[], Code, 401, "Sign in", 0),
    (
        "a user without a secret",
        &[SignIn("eve"), Sql("UPDATE users SET totp_secret = NULL")],
        Code,
        403,
        EVE,
        1,
    ),
    (
        "a session without a password",
        &[SignIn("eve"), Sql("UPDATE sessions SET factors = '{}'")],
        Code,
        403,
        EVE,
        1,
    ),
    (
        "the token before the code",
        &[SignIn("eve"), Remember, Code, Recall],
        PAYMENTS,
        401,
        "Sign in",
        1,
    ),
    (
        "wrong password",
        &[SignIn("eve")],
        Post("/confirm", "password=wrong+horse"),
        401,
        EVE,
        1,
    ),
    (
        "password change with an old proof",
        &[SignIn("eve"), Sql(OLD)],
        Post("/password", "password=battery+staple"),
        401,
        EVE,
        1,
    ),
];

#[tokio::test]
async fn each_rule_of_the_second_factor_holds() {
    check(RULES).await;
}
