//! The icons: strokes on a grid of 24 by 24, in the color of the text.

use maud::{Markup, html};

use crate::agent::Device;

#[derive(Clone, Copy)]
pub(super) enum Icon {
    Clock,
    Computer,
    Devices,
    Forward,
    Home,
    Key,
    Leave,
    Mail,
    Person,
    Phone,
    Program,
    Shield,
    Tablet,
    Unknown,
}

impl From<Device> for Icon {
    fn from(device: Device) -> Self {
        match device {
            Device::Computer => Self::Computer,
            Device::Phone => Self::Phone,
            Device::Tablet => Self::Tablet,
            Device::Program => Self::Program,
            Device::Unknown => Self::Unknown,
        }
    }
}

pub(super) fn icon(icon: Icon) -> Markup {
    let path = match icon {
        Icon::Clock => "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3.5 2",
        Icon::Computer => {
            "M5 5h14a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1zM2 19.5h20"
        }
        Icon::Devices => {
            "M17 6V5a1 1 0 0 0-1-1H4a1 1 0 0 0-1 1v8a1 1 0 0 0 1 1h7M2 18h9M15.5 9.5h4a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1h-4a1 1 0 0 1-1-1v-8a1 1 0 0 1 1-1z"
        }
        Icon::Forward => "M9.5 6l6 6-6 6",
        Icon::Home => "M4 11l8-7 8 7v8a1 1 0 0 1-1 1h-4v-6H9v6H5a1 1 0 0 1-1-1z",
        Icon::Key => {
            "M14.5 14a5 5 0 1 0-4.6-3L4 17v3h3.5v-2.5H10V15l1.9-1.9a5 5 0 0 0 2.6.9zM16 8.5v.01"
        }
        Icon::Leave => "M14 4H6a1 1 0 0 0-1 1v14a1 1 0 0 0 1 1h8M10 12h11M17.5 8.5L21 12l-3.5 3.5",
        Icon::Mail => {
            "M4 6h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V7a1 1 0 0 1 1-1zM3.5 7l8.5 6.5L20.5 7"
        }
        Icon::Person => {
            "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.5c.7-3.6 3.8-5.5 7.5-5.5s6.8 1.9 7.5 5.5"
        }
        Icon::Phone => {
            "M8 2.5h8a1 1 0 0 1 1 1v17a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1v-17a1 1 0 0 1 1-1zM11 18.5h2"
        }
        Icon::Program => {
            "M4 5h16a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1zM7 9.5l3 2.5-3 2.5M12.5 15H17"
        }
        Icon::Shield => {
            "M12 3l7.5 2.5V11c0 4.6-3 8.4-7.5 10-4.5-1.6-7.5-5.4-7.5-10V5.5zM8.5 12l2.5 2.5L15.5 9.5"
        }
        Icon::Tablet => {
            "M6 3h12a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2"
        }
        Icon::Unknown => {
            "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.5 9.5a2.5 2.5 0 1 1 3.7 2.2c-.8.4-1.2 1-1.2 1.8M12 17v.01"
        }
    };
    html! {
        svg.icon viewBox="0 0 24 24" aria-hidden="true" { path d=(path) {} }
    }
}

/// The mark of the product: a gate.
pub(super) fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 32 32" aria-hidden="true" {
            rect width="32" height="32" rx="8" {}
            path d="M8 25V15a8 8 0 0 1 16 0v10M16 7v18M8 17h16M5.5 25h21" {}
        }
    }
}
