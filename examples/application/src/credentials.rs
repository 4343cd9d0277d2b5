use std::fmt;

use serde::Deserialize;

use crate::AccountError;

/// The longest address in SMTP (RFC 5321 §4.5.3.1.3, without the angle brackets).
const LONGEST_EMAIL: usize = 254;
/// OWASP ASVS 5.0, 6.2.1. It recommends 15.
const SHORTEST_PASSWORD: usize = 8;
/// In bytes, so that 64 characters of any script fit (OWASP ASVS 5.0, 6.2.9).
const LONGEST_PASSWORD: usize = 256;

/// The input of a form. A missing field is empty.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// The email address.
    pub email: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Returns the address in its stored form, if it is valid.
    pub(crate) fn email(&self) -> Option<String> {
        let email = self.email.trim();
        let (local, domain) = email.rsplit_once('@')?;
        let printable = !email.contains(|c: char| c.is_whitespace() || c.is_control());
        let fits = !local.is_empty() && !domain.is_empty() && email.len() <= LONGEST_EMAIL;
        (printable && fits).then(|| email.to_lowercase())
    }

    /// Returns the password if it is valid.
    pub(crate) fn password(&self) -> Result<&str, AccountError> {
        if self.password.chars().count() < SHORTEST_PASSWORD {
            Err(AccountError::PasswordTooShort)
        } else if self.password.len() > LONGEST_PASSWORD {
            Err(AccountError::PasswordTooLong)
        } else {
            Ok(&self.password)
        }
    }
}

/// The input of the form for a new password. A missing field is empty.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct PasswordChange {
    /// The current password.
    pub current: String,
    /// The new password.
    #[serde(rename = "password")]
    pub new: String,
}

impl fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordChange").finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
