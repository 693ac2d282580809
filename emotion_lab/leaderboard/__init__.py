"""Many runs ranked on the same val images: reads what they saved; no split is opened."""
