"""Networks written with Keras: channels last, SAME padding."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers


def unit(x, filters: int, size: int = 3, strides: int = 1, activation: str = "relu"):
    """Convolution, normalisation, activation."""
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def classifier(x, classes: int = 10):
    """Global average pooling, a linear layer and softmax."""
    return layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def gate(x, activation: str = "sigmoid"):
    """Squeeze-and-excitation."""
    channels = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(channels // 4, 1, activation="relu")(weights)
    return layers.Multiply()([x, layers.Conv2D(channels, 1, activation=activation)(weights)])


def residual(x):
    """ResNet in small."""
    x = unit(x, 8, 7, 2)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = layers.ReLU()(layers.Add()([x, unit(unit(x, 8), 8, activation="linear")]))
    shortcut = unit(x, 16, 1, 2, "linear")
    return classifier(
        layers.ReLU()(layers.Add()([shortcut, unit(unit(x, 16, 3, 2), 16, activation="linear")]))
    )


def efficientnet(x):
    """EfficientNet in small: SiLU, squeeze-and-excitation, explicit padding before strides."""
    x = unit(layers.ZeroPadding2D(((0, 1), (0, 1)))(x), 8, 3, 2, "silu")
    wide = unit(x, 32, 1, activation="silu")
    wide = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(wide)
    wide = gate(layers.Activation("silu")(layers.BatchNormalization()(wide)))
    x = layers.Add()([x, unit(wide, 8, 1, activation="linear")])
    return classifier(unit(x, 24, 1, activation="silu"))


def depthwise_separable(x):
    """Xception in small."""
    x = unit(x, 8, 3, 2)
    for filters in (16, 24):
        x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    return classifier(x)


def inception(x):
    """GoogLeNet in small."""
    x = unit(x, 8, 3, 2)
    pooled = layers.AveragePooling2D(3, 1, padding="same")(x)
    x = layers.Concatenate()([unit(x, 4, 1), unit(unit(x, 4, 1), 6, 3), unit(pooled, 4, 1)])
    return classifier(unit(layers.MaxPooling2D()(x), 16))


def class_map(x):
    """Fully convolutional: a map per class, averaged."""
    x = unit(unit(x, 8, 3, 2), 16, 3, 2)
    x = layers.Conv2D(10, 1)(layers.Dropout(0.5)(x))
    return layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x))


def signal(x):
    """1-D convolutions over two leads."""
    for filters, strides in ((8, 2), (16, 2), (16, 1)):
        x = layers.Conv1D(filters, 5, strides, padding="same", use_bias=False)(x)
        x = layers.LeakyReLU(0.1)(layers.BatchNormalization()(x))
    return layers.Dense(5)(layers.GlobalMaxPooling1D()(x))


def volume(x):
    """3-D convolutions."""
    x = layers.Conv3D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling3D()(x)
    x = layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    return layers.Dense(3)(layers.GlobalAveragePooling3D()(x))


NETWORKS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "residual": (residual, (32, 32, 3)),
    "efficientnet": (efficientnet, (32, 32, 3)),
    "depthwise_separable": (depthwise_separable, (32, 32, 3)),
    "inception": (inception, (32, 32, 3)),
    "class_map": (class_map, (32, 32, 3)),
    "signal": (signal, (256, 2)),
    "volume": (volume, (12, 16, 20, 1)),
}


def make(name: str) -> keras.Model:
    """The network with seeded weights and settled running statistics."""
    build, shape = NETWORKS[name]
    keras.utils.set_random_seed(sorted(NETWORKS).index(name))
    inputs = keras.Input(shape, name="input")
    model = keras.Model(inputs, build(inputs))
    for _ in range(100):
        model(keras.random.normal((8, *shape)), training=True)
    return model
