"""Where in an image a class is seen: Grad-CAM and HiResCAM of any layer that returns a feature map.

By interception: zeros are added to the layer's output, and the gradient by them is that by the map. Models carry no
code for it, folded or not. Maps are computed in float32 whatever the model's dtype.
"""

import difflib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

Method = Literal["grad_cam", "hires_cam"]


def grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array | None = None,
    layer: str | None = None,
    *,
    method: Method = "grad_cam",
) -> jax.Array:
    """The share of each place of a feature map in a class's logit: relu(Σ_k w_k f_k), the largest of an image being 1.

    Pure, to be compiled by `kernels.jit(functools.partial(grad_cam, model))`. Of a last block before pooling and one
    dense layer both methods are the same, the original class activation map.

    Args:
      model: returns logits [N, K].
      variables: what `model.apply` takes.
      images: as the model takes them, [N, H, W, 3], normalised.
      classes: int [N], whose logits are explained; None for the likeliest of each image.
      layer: a module's path, "layer4_1" or "layer1_0/conv2"; None is the last of the network's own modules that
        returns a map: a ResNet's last block, MobileNetV2's last BatchNorm. `map_layers` lists them.
      method: "grad_cam": w is the gradient's mean over the map (Selvaraju et al., ICCV 2017, equations 1 and 2);
        "hires_cam": the gradient itself, place by place (Draelos and Carin, 2020).

    Returns:
      float32 [N, h, w] in [0, 1] of the map's size; all 0 where nothing speaks for the class.

    Raises:
      ValueError: unknown method, or no layer of that name that returns a map; suggests the nearest.
    """
    return explain(model, variables, images, classes, layer, method=method)[0]


def explain(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    classes: jax.Array | None = None,
    layer: str | None = None,
    *,
    method: Method = "grad_cam",
) -> tuple[jax.Array, jax.Array]:
    """`grad_cam`'s maps, and the logits float32 [N, K], from one pass. Arguments and errors are its."""
    if method not in ("grad_cam", "hires_cam"):
        raise ValueError(f"method is 'grad_cam' or 'hires_cam', not {method!r}")
    maps = map_layers(model, variables, images)
    own = [name for name in maps if "/" not in name]
    if not own:
        raise ValueError(f"a {type(model).__name__} has no layer that returns a feature map")
    name = layer or own[-1]
    if name not in maps:
        near = difflib.get_close_matches(name, maps, n=3)
        raise ValueError(f"no layer {name!r} returns a feature map: " + " or ".join(near or own))

    def logit(zeros: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        seen = []

        def add(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and "/".join(context.module.path) == name:
                seen.append(out)
                out = out + zeros.astype(out.dtype)
            return out

        with nn.intercept_methods(add):
            logits: Any = model.apply(variables, images, train=False)
        chosen = jnp.argmax(logits, axis=-1) if classes is None else jnp.asarray(classes)
        return jnp.take_along_axis(logits, chosen[:, None], axis=1).sum(), (seen[-1], logits)

    gradient, (features, logits) = jax.grad(logit, has_aux=True)(jnp.zeros(maps[name], jnp.float32))
    if method == "grad_cam":
        gradient = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    cam = nn.relu(jnp.sum(gradient * features.astype(jnp.float32), axis=-1))
    largest = jnp.max(cam, axis=(1, 2), keepdims=True)
    return jnp.where(largest > 0, cam / jnp.where(largest > 0, largest, 1.0), 0.0), logits


def map_layers(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, tuple[int, ...]]:
    """Paths of the modules that return a feature map [N, h, w, C], in the order they end in, with its shape.

    Only traced. What a network folds into a neighbour is never called, and so not among them.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path and getattr(out, "ndim", 0) == 4:
            name = "/".join(context.module.path)
            shapes.pop(name, None)  # of a module that is called twice, the last call
            shapes[name] = out.shape
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    return shapes
