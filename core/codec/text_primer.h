// The text that a text model has read before its first byte: names of tensors and metadata as files have them. A part
// of the file format (docs/format.md, "Primer"): it never changes.
#pragma once

namespace sterna {

// clang-format off
inline constexpr char kTextPrimer[] =
    "conv1.weight bn1.weight bn1.bias layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias lay"
    "er1.0.conv2.weight layer1.0.bn2.weight layer1.0.bn2.bias layer1.0.conv3.weight layer1.0.bn3.weig"
    "ht layer1.0.bn3.bias layer2.0.downsample.0.weight layer2.0.downsample.1.weight layer2.0.downsamp"
    "le.1.bias layer2.1.conv1.weight layer3.2.bn1.bias layer4.1.bn2.bias fc.weight fc.bias linear.wei"
    "ght linear.bias classifier.1.weight classifier.1.bias head.weight features.0.0.weight features.0"
    ".1.weight features.0.1.bias features.1.conv.0.0.weight features.1.conv.0.1.weight features.1.con"
    "v.0.1.bias features.1.conv.1.weight features.1.conv.2.bias backbone.body.layer1.0.conv1.weight b"
    "ackbone.fpn.inner_blocks.0.0.weight backbone.fpn.layer_blocks.0.0.bias rpn.head.conv.0.0.weight "
    "rpn.head.cls_logits.weight rpn.head.bbox_pred.bias roi_heads.box_head.fc6.weight roi_heads.box_p"
    "redictor.cls_score.weight roi_heads.mask_head.0.0.weight roi_heads.mask_predictor.mask_fcn_logit"
    "s.weight blocks.0.0.conv_dw.weight blocks.0.0.bn1.running_mean running_var num_batches_tracked c"
    "onv_pw.weight se.conv_reduce.weight conv_stem.weight conv_head.weight {\"model\":{\"name\":\"torchvis"
    "ion:resnet18\",\"arguments\":{}},\"task\":\"classification\",\"labels\":[\"0\",\"1\"],\"preprocessing\":{\"input"
    "_shape\":[3,224,224],\"mean\":[0.485,0.456,0.406],\"std\":[0.229,0.224,0.225]},\"recipe\":{\"name\":\"name"
    "\",\"seed\":0,\"model\":{\"name\":\"torchvision:resnet18\",\"arguments\":{},\"weights\":\"weights/resnet18.saf"
    "etensors\",\"license\":null},\"data\":{\"name\":\"image-folder\",\"path\":\"imagenet\",\"validation_size\":0,\"a"
    "ugment\":true,\"image_size\":null,\"mean\":null,\"std\":null,\"workers\":0},\"ternary\":{\"sparsity\":0.7,\"th"
    "reshold\":\"ratio\",\"allocation\":\"global\",\"group\":\"filter\",\"scale\":\"least-squares\",\"gradient\":\"stra"
    "ight-through\",\"pull\":0.0,\"sharpness\":0.0,\"include\":[\"*\"],\"exclude\":[],\"first_convolution\":\"float"
    "\"},\"schedule\":{\"dense_epochs\":0.0,\"prune_epochs\":0.0,\"ramp_epochs\":3.0,\"initial_sparsity\":0.3,\"f"
    "reeze_epochs\":1.0,\"mask_interval\":10},\"optimizer\":{\"name\":\"sgd\",\"learning_rate\":0.05,\"momentum\":"
    "0.9,\"nesterov\":false,\"betas\":[0.9,0.999],\"weight_decay\":0.0001,\"warmup_epochs\":0.5,\"gradient_cli"
    "p\":0.0},\"distillation\":null,\"train\":{\"epochs\":30,\"batch_size\":128,\"precision\":\"bfloat16\",\"channe"
    "ls_last\":true,\"compile\":false,\"label_smoothing\":0.0,\"ema_decay\":0.0,\"freeze_batch_norm\":false,\"b"
    "atch_norm_batches\":100,\"checkpoint_steps\":200},\"storage\":{\"float_dtype\":\"float16\",\"int8\":[],\"cod"
    "er\":\"small\"}},\"metrics\":{\"top1\":70.0,\"top5\":90.0,\"images\":10000,\"split\":\"test\"},\"source_sha256\":"
    "\"0123456789abcdef\"}";
// clang-format on

}  // namespace sterna
