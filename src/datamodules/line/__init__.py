"""The line every pipeline runs on: item, plan, leases, commit (which import no torch), rank, frames, loader."""
