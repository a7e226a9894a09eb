mod following;
mod properties;
mod resolving;
mod slices;
