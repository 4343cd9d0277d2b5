//! The pages. `maud` escapes every value in them.

mod account;
mod errors;
mod forms;
mod home;
mod icons;
mod layout;
mod sessions;
mod times;

pub(crate) use self::{
    account::account,
    errors::{
        cross_site, failed, method_not_allowed, not_found, rejected, signed_out_here, unavailable,
    },
    forms::{
        SIGN_IN, SIGN_UP, already_signed_in, confirm, continue_to, password, refused,
        refused_password, sign_in_or_up, too_many, unsent,
    },
    home::{landing, overview},
    layout::Page,
    sessions::{Done, names, sessions},
};
